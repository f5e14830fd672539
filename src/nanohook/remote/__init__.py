"""Every outgoing call; library errors are translated here, once."""
