"""Which of ImageNet's classes a noun has."""

from data.words.imagenet import classes_of_noun, imagenet_classes


def test_a_noun_has_the_classes_whose_names_end_in_it():
    assert len(imagenet_classes()) == 1000 and imagenet_classes()[285] == ("n02124075", ("Egyptian cat",))
    assert set(range(281, 286)) <= set(classes_of_noun()["cat"])  # tabby, tiger cat, Persian, Siamese, Egyptian
    assert classes_of_noun()["pizza"] == (963,)
    assert "tabby cat" not in classes_of_noun()
