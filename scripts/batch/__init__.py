"""A data set at the speed of inference: many photographs, one Parquet file a shard, on one machine or on many.

What is asked is written down once (`plan`), split in shards; `shard.explain_shard(plan, shard)` does one of them and
knows no engine. `pool` has workers do them all: processes of this machine (`local`), actors of a Ray cluster
(`cluster`). `inputs` reads photographs wherever they lie, `store` writes rows, `tasks` are the captioner, the VQA model
and the classifier, photographs in and rows out.
"""
