"""The console: pages under /console of the private listener, for tenants and for operators."""
