"""Every SQL statement, a module an aggregate."""
