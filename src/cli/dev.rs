//! `riverrun dev`: everything in one process, until it is asked to stop.

use super::{Failure, ServerArguments, asked_to_stop};
use crate::server::Server;

pub(super) async fn run(arguments: &ServerArguments) -> Result<(), Failure> {
    let env = log::Env::real();
    let config = arguments.config(&env)?;
    // Signals count from the start: one that comes during recovery ends that too.
    let stop = asked_to_stop();
    tokio::pin!(stop);
    let server = tokio::select! {
        biased;
        asked = &mut stop => return asked,
        server = Server::start(&env, &config) => server?,
    };
    println!("riverrun ready: {}", server.addresses());
    tokio::select! {
        biased;
        asked = &mut stop => asked?,
        error = server.failed() => {
            server.abandon();
            return Err(error.into());
        }
    }
    Ok(server.stop().await?)
}
