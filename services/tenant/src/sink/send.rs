//! What is sent, and the connection it goes over.

use std::{sync::Arc, time::Duration};

use audit::Event;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{Failure, Means};
use crate::domain::sink::Place;

/// For a handshake of TLS.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// One entry, in the form of the sink.
#[derive(Debug)]
pub(super) struct Letter {
    pub(super) sequence: i64,
    pub(super) event: Event,
    pub(super) line: String,
}

/// A connection to the place over TLS, whose certificate is good for the host that was named.
pub(super) async fn connect(
    means: &Means,
    place: &Place,
    protocol: Option<&[u8]>,
) -> Result<TlsStream<TcpStream>, Failure> {
    let stream = means.reach.connect(place).await?;
    let name = ServerName::try_from(place.host.clone()).map_err(|_| Failure::NoAddress)?;
    let config = match protocol {
        None => means.tls.clone(),
        Some(protocol) => {
            let mut config = ClientConfig::clone(&means.tls);
            config.alpn_protocols = vec![protocol.to_vec()];
            Arc::new(config)
        }
    };
    let handshake = TlsConnector::from(config).connect(name, stream);
    let connected = timeout(HANDSHAKE, handshake)
        .await
        .map_err(|_| Failure::NoAnswer)?;
    connected.map_err(|error| {
        // The words of rustls for a certificate that is not trusted name nothing of ours.
        let tls = error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<rustls::Error>());
        match tls {
            Some(tls) => Failure::Tls(tls.to_string().chars().take(160).collect()),
            None => Failure::Broken(error.kind()),
        }
    })
}
