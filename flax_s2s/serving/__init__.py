"""A model that answers: enter requests over HTTP, or runs; leave answers as `decode` gives them, a page that shows them, and the report of a run."""
