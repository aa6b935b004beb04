"""Parameters -> hypotheses: enter parameters and sources; leave translations, or the log-probabilities of given ones; never imports training."""
