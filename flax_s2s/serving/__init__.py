"""A model that answers and a run that is shown: enters what a run keeps and what an evaluation found; leaves pages for a browser."""
