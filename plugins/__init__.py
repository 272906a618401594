"""The built-in datasources, found through their entry points like anybody else's."""
