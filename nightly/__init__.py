"""What runs every night: the fleet's plan, and its test on hosts in network namespaces."""
