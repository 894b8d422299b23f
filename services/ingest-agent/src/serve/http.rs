//! HTTP/2 over a stream of bytes, whoever made it.

use hyper::server::conn::http2;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::io::{AsyncRead, AsyncWrite};

use super::Connection;

/// Calls at once on one connection; the agent's own limits are for all connections together.
const CALLS: u32 = 128;
/// Requests are small.
const WINDOW: u32 = 64 << 10;
/// Bytes of one answer that wait for the other end's window.
const SEND: usize = 128 << 10;
/// The longest list of headers: a delegation, and little else.
const HEADERS: u32 = 32 << 10;
/// A connection that says nothing is asked whether it is still there, and has that long to say so.
const PING: std::time::Duration = std::time::Duration::from_secs(10);

impl Connection {
    /// Answers on `io` until the other end closes it.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn serve<T>(self, io: T) -> Result<(), hyper::Error>
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(CALLS)
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW * 4)
            .max_send_buf_size(SEND)
            .max_header_list_size(HEADERS)
            .keep_alive_interval(PING)
            .keep_alive_timeout(PING)
            .serve_connection(TokioIo::new(io), TowerToHyperService::new(self))
            .await
    }
}
