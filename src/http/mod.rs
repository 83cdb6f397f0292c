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
