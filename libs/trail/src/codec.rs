//! Numbers and strings as the tail's records hold them: LEB128 integers, and bytes after their length.

use binlog::{FileName, Gtid, LogPos};

/// The bytes end before the value does, or mean nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

pub(crate) fn put_uint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_uint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

pub(crate) fn put_place(out: &mut Vec<u8>, at: &LogPos) {
    put_bytes(out, at.file.as_str().as_bytes());
    put_uint(out, at.offset);
}

const NO_GTID: u8 = 0;
const MYSQL: u8 = 1;
const MYSQL_TAGGED: u8 = 2;
const MARIADB: u8 = 3;

pub(crate) fn put_gtid(out: &mut Vec<u8>, gtid: Option<&Gtid>) {
    match gtid {
        None => out.push(NO_GTID),
        Some(Gtid::Mysql {
            uuid,
            tag: None,
            number,
        }) => {
            out.push(MYSQL);
            out.extend_from_slice(uuid);
            put_uint(out, *number);
        }
        Some(Gtid::Mysql {
            uuid,
            tag: Some(tag),
            number,
        }) => {
            out.push(MYSQL_TAGGED);
            out.extend_from_slice(uuid);
            put_bytes(out, tag.as_bytes());
            put_uint(out, *number);
        }
        Some(Gtid::Mariadb {
            domain,
            server,
            number,
        }) => {
            out.push(MARIADB);
            put_uint(out, u64::from(*domain));
            put_uint(out, u64::from(*server));
            put_uint(out, *number);
        }
    }
}

/// What is left of a record.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Walk<'a>(pub(crate) &'a [u8]);

impl<'a> Walk<'a> {
    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (head, rest) = self.0.split_at_checked(count).ok_or(Malformed)?;
        self.0 = rest;
        Ok(head)
    }

    pub(crate) fn byte(&mut self) -> Result<u8, Malformed> {
        self.take(1).map(|bytes| bytes[0])
    }

    pub(crate) fn uint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7F) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Malformed)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Malformed> {
        u32::try_from(self.uint()?).map_err(|_| Malformed)
    }

    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let length = usize::try_from(self.uint()?).map_err(|_| Malformed)?;
        self.take(length)
    }

    pub(crate) fn text(&mut self) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Malformed)
    }

    pub(crate) fn place(&mut self) -> Result<LogPos, Malformed> {
        Ok(LogPos {
            file: FileName::new(self.text()?),
            offset: self.uint()?,
        })
    }

    pub(crate) fn gtid(&mut self) -> Result<Option<Gtid>, Malformed> {
        Ok(match self.byte()? {
            NO_GTID => None,
            kind @ (MYSQL | MYSQL_TAGGED) => {
                let uuid = self.take(16)?.try_into().map_err(|_| Malformed)?;
                let tag = if kind == MYSQL {
                    None
                } else {
                    Some(self.text()?.to_owned())
                };
                Some(Gtid::Mysql {
                    uuid,
                    tag,
                    number: self.uint()?,
                })
            }
            MARIADB => Some(Gtid::Mariadb {
                domain: self.u32()?,
                server: self.u32()?,
                number: self.uint()?,
            }),
            _ => return Err(Malformed),
        })
    }

    pub(crate) fn end(self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed) }
    }
}

#[cfg(test)]
mod tests {
    use super::{Malformed, Walk, put_bytes, put_gtid, put_place, put_uint};
    use binlog::LogPos;

    #[test]
    fn values_are_read_back() {
        let numbers = [0, 1, 127, 128, 16_383, 16_384, u64::from(u32::MAX), u64::MAX];
        let gtids = [
            "0-1-23",
            "3e11fa47-71ca-11e1-9e33-c80aa9429562:23",
            "3e11fa47-71ca-11e1-9e33-c80aa9429562:nightly:1",
        ];
        let mut out = Vec::new();
        numbers.iter().for_each(|number| put_uint(&mut out, *number));
        gtids
            .iter()
            .for_each(|gtid| put_gtid(&mut out, Some(&gtid.parse().unwrap())));
        put_gtid(&mut out, None);
        put_bytes(&mut out, "čas".as_bytes());
        put_place(&mut out, &LogPos::new("binlog.000007", 4711));
        let mut walk = Walk(&out);
        for number in numbers {
            assert_eq!(walk.uint(), Ok(number));
        }
        for gtid in gtids {
            assert_eq!(walk.gtid(), Ok(Some(gtid.parse().unwrap())));
        }
        assert_eq!(walk.gtid(), Ok(None));
        assert_eq!(walk.text(), Ok("čas"));
        assert_eq!(walk.place(), Ok(LogPos::new("binlog.000007", 4711)));
        assert_eq!(walk.end(), Ok(()));
    }

    #[test]
    fn damaged_values_are_refused() {
        assert_eq!(Walk(&[0x80; 11]).uint(), Err(Malformed));
        assert_eq!(Walk(&[0x80]).uint(), Err(Malformed));
        assert_eq!(Walk(&[5, b'a']).bytes(), Err(Malformed));
        assert_eq!(Walk(&[1, 0xFF]).text(), Err(Malformed));
        assert_eq!(Walk(&[9]).gtid(), Err(Malformed));
    }
}
