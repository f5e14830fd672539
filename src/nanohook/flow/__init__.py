"""One transaction each: the only code that changes a job or touches two stores."""
