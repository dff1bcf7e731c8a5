"""Several hosts: network namespaces with an address each, whose links are cut and which lose their power."""
