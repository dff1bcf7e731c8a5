"""The command line: `mesh up`, `mesh chat`, `mesh ctl`."""
