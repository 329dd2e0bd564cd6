"""When the assets run and with what: the study, the resources, the jobs and the definitions."""
