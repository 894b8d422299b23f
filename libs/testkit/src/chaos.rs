//! A TCP proxy that spoils connections on demand.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

const OPEN: u8 = 0;
const REFUSING: u8 = 1;
const SILENT: u8 = 2;

#[derive(Debug, Default)]
struct State {
    mode: AtomicU8,
    delay_ms: AtomicU64,
    ended: AtomicBool,
    connections: Mutex<Vec<TcpStream>>,
}

impl State {
    fn silent(&self) -> bool {
        self.mode.load(Ordering::SeqCst) == SILENT
    }

    fn cut(&self) {
        for connection in self
            .connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .drain(..)
        {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }
}

/// A proxy before an address; its connections end when it is dropped.
#[derive(Debug)]
pub struct ChaosProxy {
    address: SocketAddr,
    state: Arc<State>,
}

impl ChaosProxy {
    /// Starts a proxy before `upstream`, on a free port of loopback.
    pub fn start(upstream: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if shared.ended.load(Ordering::SeqCst) {
                    return;
                }
                if shared.mode.load(Ordering::SeqCst) == REFUSING {
                    continue;
                }
                if let Ok(server) = TcpStream::connect(upstream) {
                    join(client, server, &shared);
                }
            }
        });
        Self { address, state }
    }

    /// Where to connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Every piece of data waits this long, each way, from now on.
    pub fn delay(&self, each_way: Duration) {
        let millis = u64::try_from(each_way.as_millis()).unwrap_or(u64::MAX);
        self.state.delay_ms.store(millis, Ordering::SeqCst);
    }

    /// Ends all connections and accepts none.
    pub fn cut(&self) {
        self.state.mode.store(REFUSING, Ordering::SeqCst);
        self.state.cut();
    }

    /// Ends all connections; new ones are served.
    pub fn reset(&self) {
        self.state.cut();
    }

    /// Connections stay and are accepted, and nothing passes: the other side is gone without a word.
    pub fn half_open(&self) {
        self.state.mode.store(SILENT, Ordering::SeqCst);
    }

    /// All is well again. Connections that were half open are ended.
    pub fn heal(&self) {
        if self.state.silent() {
            self.state.cut();
        }
        self.state.delay_ms.store(0, Ordering::SeqCst);
        self.state.mode.store(OPEN, Ordering::SeqCst);
    }
}

impl Drop for ChaosProxy {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::SeqCst);
        self.state.cut();
        // Wakes the listener, which then ends.
        let _ = TcpStream::connect(self.address);
    }
}

fn join(client: TcpStream, server: TcpStream, state: &Arc<State>) {
    let (Ok(client_too), Ok(server_too)) = (client.try_clone(), server.try_clone()) else {
        return;
    };
    if let (Ok(one), Ok(other)) = (client.try_clone(), server.try_clone()) {
        state
            .connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend([one, other]);
    }
    for (from, to) in [(client, server), (server_too, client_too)] {
        let state = Arc::clone(state);
        thread::spawn(move || pump(from, to, &state));
    }
}

/// What is on its way in one direction: as a line has, delayed by the same time piece by piece, and not one after the other.
const ON_THE_WAY: usize = 64;

fn pump(mut from: TcpStream, to: TcpStream, state: &Arc<State>) {
    let (sender, pieces) = mpsc::sync_channel(ON_THE_WAY);
    let deliverer = Arc::clone(state);
    thread::spawn(move || deliver(to, &pieces, &deliverer));
    let mut buffer = vec![0_u8; 64 * 1024];
    while let Ok(length) = from.read(&mut buffer) {
        if length == 0 {
            break;
        }
        if state.silent() {
            continue;
        }
        let delay = Duration::from_millis(state.delay_ms.load(Ordering::SeqCst));
        if sender
            .send((Instant::now() + delay, buffer[..length].to_vec()))
            .is_err()
        {
            break;
        }
    }
}

fn deliver(mut to: TcpStream, pieces: &mpsc::Receiver<(Instant, Vec<u8>)>, state: &State) {
    for (due, piece) in pieces {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        if !state.silent() && to.write_all(&piece).is_err() {
            break;
        }
    }
    if !state.silent() {
        let _ = to.shutdown(Shutdown::Write);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::{TcpListener, TcpStream},
        time::{Duration, Instant},
    };

    use super::ChaosProxy;

    fn echo() -> std::net::SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        std::thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                std::thread::spawn(move || {
                    let mut byte = [0];
                    while stream.read_exact(&mut byte).is_ok() && stream.write_all(&byte).is_ok() {}
                });
            }
        });
        address
    }

    fn ask(stream: &mut TcpStream) -> std::io::Result<u8> {
        let mut byte = [0];
        stream.write_all(&[7])?;
        stream.read_exact(&mut byte)?;
        Ok(byte[0])
    }

    #[test]
    fn connections_are_delayed_cut_left_half_open_and_healed() {
        let proxy = ChaosProxy::start(echo());
        let mut stream = TcpStream::connect(proxy.address()).expect("a connection");
        assert_eq!(ask(&mut stream).ok(), Some(7));
        proxy.delay(Duration::from_millis(30));
        let begun = Instant::now();
        assert_eq!(ask(&mut stream).ok(), Some(7));
        assert!(begun.elapsed() >= Duration::from_millis(60));
        proxy.delay(Duration::ZERO);
        proxy.half_open();
        stream
            .set_read_timeout(Some(Duration::from_millis(100)))
            .expect("a time-out");
        assert!(ask(&mut stream).is_err());
        proxy.heal();
        let mut stream = TcpStream::connect(proxy.address()).expect("a connection");
        assert_eq!(ask(&mut stream).ok(), Some(7));
        proxy.cut();
        assert!(ask(&mut stream).is_err());
        let refused = TcpStream::connect(proxy.address()).and_then(|mut stream| ask(&mut stream));
        assert!(refused.is_err());
    }
}
