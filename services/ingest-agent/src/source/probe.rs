//! How far the server's log is, asked beside the stream of events.

use binlog::LogPos;
use mysql_async::Conn;

use super::connect::{self, Connector};
use crate::{error::Error, options::Server};

/// A connection for this one question; it is made when it is needed.
#[derive(Debug)]
pub struct Probe {
    connector: Connector,
    conn: Option<Conn>,
}

impl Probe {
    /// For this server.
    pub fn new(server: &Server) -> Result<Self, Error> {
        Ok(Self {
            connector: Connector::new(server)?,
            conn: None,
        })
    }

    /// The server's logs and their ends, oldest first.
    pub async fn logs(&mut self) -> Result<Vec<LogPos>, Error> {
        let mut conn = match self.conn.take() {
            Some(conn) => conn,
            None => self.connector.connect().await.map_err(|fault| self.told(fault))?,
        };
        let logs = connect::logs(&self.connector, &mut conn)
            .await
            .map_err(|fault| self.told(fault))?;
        self.conn = Some(conn);
        Ok(logs)
    }

    fn told(&self, fault: super::fault::Fault) -> Error {
        fault.into_error(&self.connector.what)
    }
}

/// How many bytes of `logs` come after `at`; none if they do not hold its file.
pub fn behind(logs: &[LogPos], at: &LogPos) -> Option<u64> {
    let place = logs.iter().position(|log| log.file == at.file)?;
    let (here, later) = logs.get(place..)?.split_first()?;
    let later: u64 = later.iter().map(|log| log.offset).sum();
    // What was stored after the server was asked is no lag.
    Some(here.offset.saturating_sub(at.offset) + later)
}

#[cfg(test)]
mod tests {
    use binlog::LogPos;

    use super::behind;

    #[test]
    fn what_is_missing_is_counted_across_files() {
        let logs = [
            LogPos::new("b.1", 100),
            LogPos::new("b.2", 50),
            LogPos::new("b.3", 7),
        ];
        assert_eq!(behind(&logs, &LogPos::new("b.3", 7)), Some(0));
        assert_eq!(behind(&logs, &LogPos::new("b.3", 9)), Some(0));
        assert_eq!(behind(&logs, &LogPos::new("b.1", 40)), Some(117));
        assert_eq!(behind(&logs, &LogPos::new("b.0", 40)), None);
    }
}
