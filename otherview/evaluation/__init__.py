"""Is it any good: features, kNN, logistic regression, scores."""
