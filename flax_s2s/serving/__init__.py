"""A model that answers and a run that is shown: enter requests over HTTP, and what runs keep; leave answers as `decode` has them, and pages for a browser."""
