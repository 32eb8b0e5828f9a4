"""The training of a head of VGG's kind to say what another classifier says; see `common.networks.vgg_head`."""
