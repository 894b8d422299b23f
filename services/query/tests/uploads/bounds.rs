//! Logs that are short and open to very much: they are refused, and the words say the bound and the remedy.

use proto::query::v1 as pb;
use testkit::Engine;
use types::Role;

use crate::{
    logs::Log,
    world::{No, Replica, World, eventually},
};

const TRANSACTION_PAYLOAD: u8 = 40;
const IGNORABLE: u8 = 28;
const PREVIOUS_GTIDS: u8 = 35;
pub(crate) const TABLE_MAP: u8 = 19;
pub(crate) const WRITE_ROWS: u8 = 30;
pub(crate) const QUERY: u8 = 2;

fn crc32(bytes: &[u8]) -> u32 {
    let bit = |crc: u32, _| (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg());
    !bytes
        .iter()
        .fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), bit))
}

fn head(kind: u8, length: usize) -> Vec<u8> {
    let mut head = vec![0; 4];
    head.push(kind);
    head.extend(1_u32.to_le_bytes());
    head.extend(u32::try_from(length).unwrap().to_le_bytes());
    head.extend([0; 6]);
    head
}

/// An event as it stands in the file, with its checksum.
pub(crate) fn event(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut event = head(kind, 19 + body.len() + 4);
    event.extend(body);
    event.extend(crc32(&event).to_le_bytes());
    event
}

/// A zstd frame (RFC 8878) of bytes as they are and of runs of one byte.
#[derive(Default)]
struct Frame(Vec<(u32, Vec<u8>)>);

impl Frame {
    fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.push(((bytes.len() as u32) << 3, bytes.to_vec()));
        self
    }

    /// Runs of at most 64 KiB.
    fn run(mut self, byte: u8, count: usize) -> Self {
        const LONGEST: usize = 64 << 10;
        for from in (0..count).step_by(LONGEST) {
            let length = LONGEST.min(count - from);
            self.0.push(((length as u32) << 3 | 1 << 1, vec![byte]));
        }
        self
    }

    /// As a transaction payload of a log.
    fn payload(self) -> Vec<u8> {
        // Compression: zstd; the end of the fields; then the frame: magic, no content size, a window of 1 MiB.
        let mut body = vec![2, 1, 0, 0, 0x28, 0xB5, 0x2F, 0xFD, 0, 10 << 3];
        let last = self.0.len() - 1;
        for (nth, (head, bytes)) in self.0.into_iter().enumerate() {
            let head = head | u32::from(nth == last);
            body.extend(&head.to_le_bytes()[..3]);
            body.extend(bytes);
        }
        event(TRANSACTION_PAYLOAD, &body)
    }
}

/// A real server's format description, and what it says was executed before.
pub(crate) fn beginning(log: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let length = |at: usize| u32::from_le_bytes(log[at + 9..at + 13].try_into().unwrap()) as usize;
    let format = 4 + length(4);
    (
        log[..format].to_vec(),
        log[format..format + length(format)].to_vec(),
    )
}

async fn refused(replica: &Replica, world: &World, name: &str, log: &[u8]) -> No {
    let operator = world.person(Role::Operator);
    let upload = replica.create(&operator, name, "binlog.000001", 0).await.id;
    replica.send(&operator, &upload, log, 0, 1 << 20).await;
    let no = eventually("the file to be refused", async || {
        replica.finish(&operator, &upload, false).await.err()
    })
    .await;
    assert_eq!(no.reason, "UPLOAD_DAMAGED", "{name}: {no:?}");
    assert!(
        no.message
            .contains("let the agent beside the server read this log"),
        "{name}: {no:?}"
    );
    world
        .gone(&format!("upload_file WHERE upload_id = '{upload}'"))
        .await;
    let gone = pb::DeleteUploadRequest { upload_id: upload };
    replica.ask(&operator, gone).await.unwrap();
    no
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_short_file_that_opens_to_very_much_is_refused() {
    let world = World::new().await;
    let replica = world.replica().await;
    let real = Log::record(Engine::Mysql8, "");
    let (format, previous) = beginning(&real.bytes);
    // One event of a gibibyte of zeros.
    let length = 1 << 30;
    let zeros = Frame::default().raw(&head(IGNORABLE, 19 + length)).run(0, length);
    let log = [&format[..], &previous, &zeros.payload()].concat();
    let no = refused(&replica, &world, "zeros", &log).await;
    assert!(no.message.contains("no more than 67108864"), "{no:?}");
    // Many events.
    let mut many = Frame::default();
    for _ in 0..80 {
        many = many.raw(&head(IGNORABLE, 19 + (1 << 20))).run(0, 1 << 20);
    }
    let log = [&format[..], &previous, &many.payload()].concat();
    let no = refused(&replica, &world, "many", &log).await;
    assert!(no.message.contains("opens to more than"), "{no:?}");
    // GTIDs of which not a byte is there.
    let gtids = head(PREVIOUS_GTIDS, (16 << 20) + 1);
    let no = refused(&replica, &world, "gtids", &[&format[..], &gtids].concat()).await;
    assert!(no.message.contains("no more than 16777216"), "{no:?}");
}

/// A QUERY event's body.
pub(crate) fn query(text: &str) -> Vec<u8> {
    let mut body = vec![0; 8];
    body.extend([1, 0, 0, 0, 0]);
    body.extend(b"s\0");
    body.extend(text.as_bytes());
    body
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_kept_of_a_short_file_is_bounded() {
    let world = World::new().await;
    let replica = world.replica().await;
    let real = Log::record(Engine::Mysql8, "");
    let (format, previous) = beginning(&real.bytes);
    // Rows of one column that is NULL: one byte each in the log, and more in the store.
    let mut map = vec![7, 0, 0, 0, 0, 0, 0, 0];
    map.extend(b"\x01s\0\x01t\0");
    map.extend([1, 1, 0, 1, 4, 2, 1, b'a']);
    let inner = |kind, body: &[u8]| [head(kind, 19 + body.len()), body.to_vec()].concat();
    let count = 30 << 20;
    let mut rows = head(WRITE_ROWS, 19 + 12 + count);
    rows.extend([7, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1, 1]);
    let frame = Frame::default()
        .raw(&inner(QUERY, &query("BEGIN")))
        .raw(&inner(TABLE_MAP, &map))
        .raw(&rows)
        .run(0xFF, count);
    let log = [&format[..], &previous, &frame.payload()].concat();
    let no = refused(&replica, &world, "rows", &log).await;
    assert!(no.message.contains("no more are kept for a file of"), "{no:?}");
}
