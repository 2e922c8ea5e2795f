"""Arrays to claims with their uncertainty."""
