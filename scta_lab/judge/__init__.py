"""What tells how good, how sure and how costly: metrics, n-grams, uncertainty, decoding, cost."""
