"""The cleaner service: deletes what no checkpoint needs any more. Why it is right stands in ``moorage.cleaner``."""
