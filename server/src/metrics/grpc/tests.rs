use std::convert::Infallible;

use cairn_net::proto::health::health_check_response::ServingStatus;
use cairn_net::proto::health::health_server::{Health, HealthServer};
use cairn_net::proto::health::{HealthCheckRequest, HealthCheckResponse};
use futures::FutureExt as _;
use http_body_util::{BodyExt as _, Full, StreamBody};
use tower::service_fn;

use super::*;

const PUT: &str = "/etcdserverpb.KV/Put";
const WATCH: &str = "/etcdserverpb.Watch/Watch";

fn messages(sizes: &[usize]) -> Bytes {
    let mut out = Vec::new();
    for &size in sizes {
        out.push(0);
        out.extend_from_slice(&u32::try_from(size).unwrap().to_be_bytes());
        out.resize(out.len() + size, 7);
    }
    out.into()
}

#[test]
fn messages_are_found_however_frames_cut_them() {
    let data = messages(&[3, 0, 300]);
    for cut in 1..20 {
        let mut found = Vec::new();
        let mut prefixes = Prefixes::default();
        data.chunks(cut).for_each(|piece| prefixes.walk(piece, |size| found.push(size)));
        assert_eq!(found, [3, 0, 300], "pieces of {cut}");
    }
}

/// A health service that serves, or refuses every question about a named service.
#[derive(Debug)]
struct Serving;

#[tonic::async_trait]
impl Health for Serving {
    async fn check(
        &self,
        request: tonic::Request<HealthCheckRequest>,
    ) -> Result<tonic::Response<HealthCheckResponse>, tonic::Status> {
        if request.get_ref().service.is_empty() {
            Ok(tonic::Response::new(HealthCheckResponse { status: ServingStatus::Serving.into() }))
        } else {
            Err(tonic::Status::not_found("unknown service"))
        }
    }

    type WatchStream = futures::stream::Empty<Result<HealthCheckResponse, tonic::Status>>;

    async fn watch(
        &self,
        _: tonic::Request<HealthCheckRequest>,
    ) -> Result<tonic::Response<Self::WatchStream>, tonic::Status> {
        Ok(tonic::Response::new(futures::stream::empty()))
    }
}

#[test]
fn real_services_are_counted_and_still_answer() {
    let metrics = Arc::new(GrpcMetrics::new(false));
    let services = Routes::new(HealthServer::new(Serving));
    let mut routes = GrpcMetricsLayer::new(metrics.clone()).around(services);
    let mut call = |path: &str, message: &'static [u8]| {
        let request = Request::builder()
            .method("POST")
            .uri(path)
            .header("content-type", "application/grpc")
            .body(tonic::body::Body::new(Full::new(Bytes::from_static(message))))
            .unwrap();
        let answer = async { routes.call(request).await.unwrap().into_body().collect().await.unwrap() };
        answer.now_or_never().expect("nothing here waits").to_bytes()
    };
    assert_eq!(call("/grpc.health.v1.Health/Check", b"\0\0\0\0\0"), &b"\0\0\0\0\x02\x08\x01"[..]);
    assert_eq!(call("/grpc.health.v1.Health/Check", b"\0\0\0\0\x03\x0a\x01x"), "");
    assert_eq!(call("/grpc.health.v1.Health/Watch", b"\0\0\0\0\0"), "");
    assert_eq!(call("/made.Up/Name", b"\0\0\0\0\0"), "");
    let check = "grpc_method=\"Check\",grpc_service=\"grpc.health.v1.Health\",grpc_type=\"unary\"";
    let watch = "grpc_method=\"Watch\",grpc_service=\"grpc.health.v1.Health\",grpc_type=\"server_stream\"";
    assert_lines(
        &page(&metrics),
        &[
            &format!("grpc_server_started_total{{{check}}} 2"),
            &format!("grpc_server_handled_total{{grpc_code=\"OK\",{check}}} 1"),
            &format!("grpc_server_handled_total{{grpc_code=\"NotFound\",{check}}} 1"),
            &format!("grpc_server_handled_total{{grpc_code=\"Canceled\",{check}}} 0"),
            &format!("grpc_server_msg_received_total{{{check}}} 2"),
            &format!("grpc_server_msg_sent_total{{{check}}} 1"),
            &format!("grpc_server_handled_total{{grpc_code=\"OK\",{watch}}} 1"),
            "etcd_network_client_grpc_received_bytes_total 3",
            "etcd_network_client_grpc_sent_bytes_total 2",
        ],
    );
}

type Frames = Vec<Result<Frame<Bytes>, Infallible>>;

/// Serves one call whose response has these headers and frames, and reads the response's first
/// `read` frames.
fn serve(metrics: &Arc<GrpcMetrics>, path: &str, headers: HeaderMap, frames: Frames, read: usize) {
    let layer = GrpcMetricsLayer::new(metrics.clone());
    let mut parts = Some((headers, frames));
    let mut service = layer.layer(service_fn(move |request: Request<Counted<Full<Bytes>>>| {
        let (headers, frames) = parts.take().unwrap();
        async move {
            request.into_body().collect().await.unwrap();
            let mut response = Response::new(StreamBody::new(futures::stream::iter(frames)));
            *response.headers_mut() = headers;
            Ok::<_, Infallible>(response)
        }
    }));
    let request = Request::builder()
        .uri(path)
        .header("client-api-version", "3.9")
        .body(Full::new(messages(&[6])))
        .unwrap();
    let response = service.call(request).now_or_never().expect("nothing here waits").unwrap();
    let mut body = response.into_body();
    for _ in 0..read {
        let _ = body.frame().now_or_never().expect("nothing here waits");
    }
}

fn trailers(code: &'static str) -> Result<Frame<Bytes>, Infallible> {
    Ok(Frame::trailers(HeaderMap::from_iter([("grpc-status".parse().unwrap(), code.parse().unwrap())])))
}

fn page(metrics: &GrpcMetrics) -> String {
    let mut page = Page::default();
    metrics.encode(&mut page);
    page.finish()
}

fn assert_lines(page: &str, lines: &[&str]) {
    for line in lines {
        assert!(page.lines().any(|found| found == *line), "{line} is not in\n{page}");
    }
}

#[test]
fn calls_and_messages_are_counted_by_method_and_code() {
    let metrics = Arc::new(GrpcMetrics::new(true));
    let data = |sizes: &[usize]| Ok(Frame::data(messages(sizes)));
    serve(&metrics, PUT, HeaderMap::new(), vec![data(&[26]), trailers("0")], 3);
    serve(&metrics, WATCH, HeaderMap::new(), vec![data(&[5, 5]), data(&[5]), trailers("14")], 4);
    // A client that goes away before the status.
    serve(&metrics, WATCH, HeaderMap::new(), vec![data(&[5]), trailers("0")], 1);
    let refused = HeaderMap::from_iter([("grpc-status".parse().unwrap(), "3".parse().unwrap())]);
    serve(&metrics, PUT, refused, Vec::new(), 1);
    serve(&metrics, "/made.Up/Name", HeaderMap::new(), vec![data(&[1]), trailers("0")], 3);
    let page = page(&metrics);
    let put = "grpc_method=\"Put\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"";
    let watch = "grpc_method=\"Watch\",grpc_service=\"etcdserverpb.Watch\",grpc_type=\"bidi_stream\"";
    assert_lines(
        &page,
        &[
            &format!("grpc_server_started_total{{{put}}} 2"),
            &format!("grpc_server_handled_total{{grpc_code=\"OK\",{put}}} 1"),
            &format!("grpc_server_handled_total{{grpc_code=\"InvalidArgument\",{put}}} 1"),
            &format!("grpc_server_msg_received_total{{{put}}} 2"),
            &format!("grpc_server_msg_sent_total{{{put}}} 1"),
            &format!("grpc_server_handling_seconds_count{{{put}}} 2"),
            &format!("grpc_server_handled_total{{grpc_code=\"Unavailable\",{watch}}} 1"),
            &format!("grpc_server_handled_total{{grpc_code=\"Canceled\",{watch}}} 1"),
            &format!("grpc_server_msg_sent_total{{{watch}}} 4"),
            "etcd_network_client_grpc_received_bytes_total 24",
            "etcd_network_client_grpc_sent_bytes_total 46",
            "etcd_server_client_requests_total{client_api_version=\"3.9\",type=\"unary\"} 2",
            "etcd_server_client_requests_total{client_api_version=\"3.9\",type=\"stream\"} 2",
        ],
    );
    assert!(!page.contains("made.Up"));
}

#[test]
fn a_call_that_is_given_up_before_its_response_is_canceled() {
    let metrics = Arc::new(GrpcMetrics::new(false));
    let layer = GrpcMetricsLayer::new(metrics.clone());
    let mut service = layer.layer(service_fn(|_: Request<Counted<Full<Bytes>>>| {
        std::future::pending::<Result<Response<Full<Bytes>>, Infallible>>()
    }));
    let request = Request::builder().uri(PUT).body(Full::default()).unwrap();
    let mut answer = service.call(request);
    assert!((&mut answer).now_or_never().is_none());
    assert_eq!(metrics.methods[PUT].handled[CANCELED].value(), 0);
    drop(answer);
    assert_eq!(metrics.methods[PUT].handled[CANCELED].value(), 1);
}

#[test]
fn clients_cannot_make_up_series_without_end() {
    let metrics = GrpcMetrics::new(false);
    for version in 0..1000 {
        metrics.client(&version.to_string(), false);
    }
    let page = page(&metrics);
    let series = page.lines().filter(|line| line.starts_with("etcd_server_client_requests_total{"));
    assert_eq!(series.count(), CLIENT_VERSIONS_MAX + 1);
}
