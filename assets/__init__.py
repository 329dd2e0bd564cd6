"""What the pipeline materialises and how each stage is checked: one file a stage."""
