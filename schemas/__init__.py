"""JSON Schemas of the built-in datasources: `<datasource>/<event>.json`, draft 2020-12."""
