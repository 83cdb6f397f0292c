//! HTTP: `/healthz`, `/readyz`, `/metrics`.

mod exposition;
mod metrics;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use engine::job::JobState;
use tokio::sync::watch;

/// What the program is doing.
#[derive(Clone)]
pub enum Phase {
    Starting(&'static str),
    Running(Running),
    /// It cannot go on, or is being stopped; why.
    Failed(String),
}

/// What the pages are made of.
#[derive(Clone)]
pub struct Running {
    pub node: Arc<log::Node>,
    pub engine: engine::job::Engine,
    pub broker: Arc<log::broker::metrics::Metrics>,
    pub sql: Arc<sql::session::Server>,
}

#[derive(Clone)]
struct Pages {
    env: log::Env,
    phase: watch::Receiver<Phase>,
}

/// Serves until `stop` turns true; the future ends when the last request is answered.
pub async fn serve(
    env: log::Env,
    phase: watch::Receiver<Phase>,
    listener: log::env::Listener,
    mut stop: watch::Receiver<bool>,
) -> io::Result<()> {
    let pages = Pages { env: env.clone(), phase };
    let router = Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(pages);
    let stopped = async move {
        // A sender that is gone means that the program is ending.
        let _ = stop.wait_for(|stop| *stop).await;
    };
    axum::serve(Incoming { listener, env }, router).with_graceful_shutdown(stopped).await
}

/// The listener as axum wants it.
struct Incoming {
    listener: log::env::Listener,
    env: log::Env,
}

impl axum::serve::Listener for Incoming {
    type Io = log::env::Stream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            match self.listener.accept().await {
                Ok(accepted) => return accepted,
                Err(error) => {
                    // Mostly too many open files: wait for some to be closed rather than spin.
                    tracing::warn!(%error, "a connection could not be accepted");
                    self.env.sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.listener.address())
    }
}

/// Whether the process lives and can go on: not whether it is ready.
async fn healthz(State(pages): State<Pages>) -> Response {
    match &*pages.phase.borrow() {
        Phase::Starting(_) | Phase::Running(_) => (StatusCode::OK, "ok\n").into_response(),
        Phase::Failed(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}

/// Whether it can do its work, and why not. Relations that stopped or wait do not make the rest unready: they are
/// warnings.
async fn readyz(State(pages): State<Pages>) -> Response {
    let phase = pages.phase.borrow().clone();
    let (reasons, warnings) = match phase {
        Phase::Starting(doing) => (vec![doing.to_owned()], vec![]),
        Phase::Failed(reason) => (vec![reason], vec![]),
        Phase::Running(running) => (vec![], warnings(&running)),
    };
    let ready = reasons.is_empty();
    let body = serde_json::json!({ "ready": ready, "reasons": reasons, "warnings": warnings });
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, [(header::CONTENT_TYPE, "application/json")], format!("{body}\n")).into_response()
}

fn warnings(running: &Running) -> Vec<String> {
    let jobs = running.engine.jobs().into_iter().filter_map(|job| match job.state {
        JobState::Running => None,
        JobState::Waiting { progress } => Some(format!("{} has not caught up: {progress}", job.name)),
        JobState::Failed { reason } => Some(format!("{} stopped at epoch {}: {reason}", job.name, job.epoch)),
    });
    let sources = running.sql.source_reports().into_iter().filter(|source| source.state != "running");
    jobs.chain(sources.map(|source| {
        let detail = source.detail.map(|detail| format!(": {detail}")).unwrap_or_default();
        format!("source {} is {}{detail}", source.name, source.state)
    }))
    .collect()
}

async fn metrics(State(pages): State<Pages>) -> Response {
    let phase = pages.phase.borrow().clone();
    let text = metrics::render(&pages.env, &phase);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    #[tokio::test]
    async fn it_is_ready_neither_while_it_starts_nor_when_it_has_failed() {
        let env = log::Env::real();
        let listener = env.listen("127.0.0.1:0").await.unwrap();
        let at = listener.address().to_string();
        let (phase, phases) = watch::channel(Phase::Starting("the log is recovering"));
        let (_stop, stopped) = watch::channel(false);
        let _pages = env.spawn("http", serve(env.clone(), phases, listener, stopped));
        let get = async |path: &str| {
            let mut stream = env.connect(&at).await.unwrap();
            let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).await.unwrap();
            text
        };
        let check = async |path: &str, status: &str, part: &str| {
            let answer = get(path).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")) && answer.contains(part), "{path}: {answer}");
        };
        check("/readyz", "503", "the log is recovering").await;
        check("/healthz", "200", "ok").await;
        check("/metrics", "200", "riverrun_").await;
        phase.send_replace(Phase::Failed("the disk is gone".into()));
        check("/readyz", "503", "the disk is gone").await;
        check("/healthz", "503", "the disk is gone").await;
    }
}
