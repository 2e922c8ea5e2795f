"""Network input to similarities and logits."""
