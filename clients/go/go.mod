module inference-mesh/clients/go

go 1.19
