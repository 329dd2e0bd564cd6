"""The fine-tuning job: training pairs in, a policy that diffusers loads out."""
