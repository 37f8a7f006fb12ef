"""What a user can ask for: plans of conversions, and reports; nothing here writes."""
