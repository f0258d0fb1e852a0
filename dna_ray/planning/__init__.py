"""What is decided, estimated and tried before anything is trained; `dna-ray plan` tells it."""
