"""Store what a frozen vision encoder makes of a data set's images, for `cogaze pretrain --feature_cache`.

    accelerate launch training/cache_features.py --vision_encoder microsoft/rad-dino --output_dir cache \\
        --data '{"name": "mimic_cxr", "root": "/data/mimic-cxr-jpg", "split": "train"}'

Run it once per split with the same `--output_dir`. An interrupted run goes on after its last finished shard, with any
number of processes. What the cache takes on disk, and when it pays: `training/data/feature_cache.py`.
"""

from training.data.feature_writing import cache_features as main

if __name__ == "__main__":
    main()
