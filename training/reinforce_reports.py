"""Let a report generator learn from rewards.

    accelerate launch training/reinforce_reports.py --config training/configs/reinforce/phantom.yaml

Group relative policy optimisation (GRPO, arXiv 2402.03300) by trl: of each image several reports are drawn, each is
rewarded, and those above their group's mean become more likely. The image encoder is frozen. Every key of the YAML file
is a flag too, and so is every argument of `trl.GRPOConfig`. Held-out studies are scored as the run goes; the best
model by `best_by` is kept.
"""

from training.reinforcement.reinforcing import reinforce_reports as main

if __name__ == "__main__":
    main()
