//! The same counts for the calls that pass no layer.

use std::time::Duration;

use cairn_net::services::Calls;
use http::HeaderMap;
use tonic::Code;

use super::{GrpcMetrics, Method};

impl GrpcMetrics {
    fn of(&self, method: usize) -> &Method {
        &self.ordered[method]
    }
}

impl Calls for GrpcMetrics {
    fn method(&self, path: &str) -> usize {
        let wanted = self.methods.get(path).expect("all methods of etcd are known");
        self.ordered.iter().position(|method| std::ptr::eq(&**method, &**wanted)).expect("it is one of them")
    }

    fn started(&self, method: usize, headers: &HeaderMap, received_bytes: usize) {
        let method = self.of(method);
        method.started.inc();
        method.received.inc();
        self.received_bytes.add(received_bytes as u64);
        self.client_of(method, headers);
    }

    fn sent(&self, method: usize, bytes: usize) {
        self.of(method).sent.inc();
        self.sent_bytes.add(bytes as u64);
    }

    fn handled(&self, method: usize, code: Code, time: Duration) {
        GrpcMetrics::handled(self, self.of(method), code as usize, time);
    }
}
