//! Connections: which endpoint to use, and how long to wait for it.
//!
//! A cluster client tries its endpoints in order until one accepts, and keeps trying until the
//! command's time is over; a command for one endpoint connects to that one only.

use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status};

use crate::cli::Global;
use crate::error::{CtlError, EXIT_BAD_CONNECTION, Outcome};
use crate::output::Format;

/// The pause between two rounds of attempts to connect.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// What a command needs: the flags, the format, and connections on demand.
pub(crate) struct Client {
    /// The global flags.
    pub(crate) global: Global,
    /// The output format.
    pub(crate) format: Format,
}

impl Client {
    /// A client for these flags; an unknown format is refused before anything is sent.
    pub(crate) fn new(global: Global) -> Outcome<Self> {
        let format = Format::named(&global.write_out)?;
        Ok(Self { global, format })
    }

    /// When a command that starts now must be over.
    pub(crate) fn deadline(&self) -> Instant {
        Instant::now() + self.global.command_timeout
    }

    /// A connection to any of the endpoints.
    pub(crate) async fn connect(&self) -> Outcome<Channel> {
        self.connect_to(&self.global.endpoints, Some(self.deadline())).await
    }

    /// A connection to any of `endpoints`; without a deadline the attempts never end.
    pub(crate) async fn connect_to(
        &self,
        endpoints: &[String],
        deadline: Option<Instant>,
    ) -> Outcome<Channel> {
        let mut targets = Vec::new();
        for endpoint in endpoints.iter().filter(|endpoint| !endpoint.is_empty()) {
            let url = if endpoint.contains("://") { endpoint.clone() } else { format!("http://{endpoint}") };
            if url.starts_with("https://") {
                return Err(CtlError::new(EXIT_BAD_CONNECTION, "TLS endpoints are not supported yet"));
            }
            // A target that cannot be dialled is one that never answers.
            if let Ok(target) = Endpoint::from_shared(url) {
                targets.push(
                    target
                        .connect_timeout(self.global.dial_timeout)
                        .http2_keep_alive_interval(self.global.keepalive_time.max(Duration::from_secs(1)))
                        .keep_alive_timeout(self.global.keepalive_timeout),
                );
            }
        }
        if endpoints.iter().all(|endpoint| endpoint.is_empty()) {
            return Err(CtlError::new(EXIT_BAD_CONNECTION, "etcdclient: no available endpoints"));
        }
        let attempts = async {
            loop {
                for target in &targets {
                    if let Ok(channel) = target.connect().await {
                        return channel;
                    }
                }
                sleep(RETRY_PAUSE).await;
            }
        };
        match deadline {
            Some(deadline) => timeout_at(deadline, attempts).await.map_err(|_| CtlError::deadline()),
            None => Ok(attempts.await),
        }
    }

    /// Waits for a call, at most as long as a command may take.
    pub(crate) async fn call<T>(
        &self,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Outcome<T> {
        match timeout_at(self.deadline(), call).await {
            Ok(reply) => Ok(reply?.into_inner()),
            Err(_) => Err(CtlError::deadline()),
        }
    }
}

/// The key behind all keys that start with `prefix`; a single zero byte when there is none.
pub(crate) fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end;
        }
    }
    vec![0]
}

#[cfg(test)]
mod tests {
    use super::prefix_end;

    #[test]
    fn prefix_ends_carry() {
        assert_eq!(prefix_end(b"a"), b"b");
        assert_eq!(prefix_end(b"a\xff"), b"b");
        assert_eq!(prefix_end(b"\xff"), b"\0");
    }
}
