"""What a user can ask for; each module builds a Plan and does nothing else."""
