"""Read, plan, convert and verify language-model checkpoints."""
