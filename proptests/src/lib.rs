//! Properties: model against code, differential tests against a real etcd.
