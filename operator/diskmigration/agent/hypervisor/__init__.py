"""libvirt, and nothing else imports it: the connection, domain XML, block jobs, statistics, events."""
