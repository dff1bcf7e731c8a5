"""`mesh ctl throughput`: how soon and how fast a gateway or a worker answers under load."""
