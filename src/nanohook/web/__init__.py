"""The web side: the route table first, then a module a resource."""
