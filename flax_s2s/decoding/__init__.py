"""Parameters -> hypotheses -> score; never imports training."""
