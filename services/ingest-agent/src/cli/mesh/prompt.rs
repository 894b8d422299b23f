//! Questions to the person at the terminal.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufRead, BufReader, IsTerminal, Read, Write},
};

use rustix::{
    process::{Signal, getpid, kill_process},
    termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr},
};
use types::{Code, Secret};

use crate::{error::Error, render::text::visible};

/// The longest answer that is read.
const BYTES_MAX: u64 = 4_096;
/// What Ctrl-C sends while it is no signal.
const INTERRUPT: u8 = 3;

/// The terminal of this process, whatever standard input and output are.
pub(super) struct Terminal {
    lines: BufReader<File>,
}

/// Restores what a terminal did before.
struct Quiet<'a>(&'a File, Termios);

impl Drop for Quiet<'_> {
    fn drop(&mut self) {
        // There is nobody to tell if the terminal has gone.
        let _ = tcsetattr(self.0, OptionalActions::Now, &self.1);
    }
}

impl Terminal {
    /// None where nobody sits at one.
    pub(super) fn open() -> Option<Self> {
        let file = OpenOptions::new().read(true).write(true).open("/dev/tty").ok()?;
        file.is_terminal().then(|| Self {
            lines: BufReader::new(file),
        })
    }

    /// Asks and shows what is typed.
    pub(super) fn ask(&mut self, question: &str) -> Result<String, Error> {
        self.say(question)?;
        self.line()
    }

    /// Asks without showing what is typed.
    pub(super) fn ask_secret(&mut self, question: &str) -> Result<Secret<String>, Error> {
        let file = self.lines.get_ref().try_clone().map_err(|error| fault(&error))?;
        let before = tcgetattr(&file).map_err(|error| fault(&error.into()))?;
        let mut quiet = before.clone();
        quiet.local_modes.remove(LocalModes::ECHO);
        quiet.local_modes.insert(LocalModes::ECHONL);
        // A signal would end this process and leave the terminal without echo: Ctrl-C is a character here, and ends the line.
        quiet.local_modes.remove(LocalModes::ISIG);
        quiet.special_codes[SpecialCodeIndex::VEOL] = INTERRUPT;
        tcsetattr(&file, OptionalActions::Flush, &quiet).map_err(|error| fault(&error.into()))?;
        let quiet = Quiet(&file, before);
        self.say(question)?;
        let answer = line(&mut self.lines);
        drop(quiet);
        if answer
            .as_ref()
            .is_err_and(|error| error.kind() == io::ErrorKind::Interrupted)
        {
            self.write(b"\n")?;
            // Now it is the signal that it was meant to be.
            kill_process(getpid(), Signal::INT).map_err(|error| fault(&error.into()))?;
        }
        answer.map(Secret::new).map_err(|error| fault(&error))
    }

    /// Says something, and leaves the line open.
    pub(super) fn say(&mut self, text: &str) -> Result<(), Error> {
        self.write(visible(text).as_bytes())
    }

    /// Says something on a line of its own.
    pub(super) fn tell(&mut self, text: &str) -> Result<(), Error> {
        self.say(text)?;
        self.write(b"\n")
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let file = self.lines.get_mut();
        file.write_all(bytes)
            .and_then(|()| file.flush())
            .map_err(|error| fault(&error))
    }

    fn line(&mut self) -> Result<String, Error> {
        line(&mut self.lines).map_err(|error| fault(&error))
    }
}

fn fault(error: &io::Error) -> Error {
    Error::from_io("the terminal", error)
}

/// A line without its end. One that Ctrl-C ended is none.
fn line(from: &mut impl BufRead) -> io::Result<String> {
    let mut bytes = Vec::new();
    for byte in from.by_ref().take(BYTES_MAX).bytes() {
        match byte? {
            b'\n' => return text(bytes),
            INTERRUPT => return Err(io::ErrorKind::Interrupted.into()),
            byte => bytes.push(byte),
        }
    }
    if bytes.is_empty() {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it was closed"));
    }
    text(bytes)
}

fn text(bytes: Vec<u8>) -> io::Result<String> {
    let mut text =
        String::from_utf8(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    text.truncate(text.trim_end_matches('\r').len());
    Ok(text)
}

/// The password: asked for at the terminal, or the first line of a standard input that is none.
pub(super) fn password(terminal: &mut Option<Terminal>) -> Result<Secret<String>, Error> {
    let stdin = io::stdin();
    if stdin.is_terminal()
        && let Some(terminal) = terminal
    {
        return terminal.ask_secret("password: ");
    }
    let text = line(&mut stdin.lock()).unwrap_or_default();
    if text.is_empty() {
        return Err(
            Error::new(Code::Invalid, "the password", "standard input has none").hint(
                "run trail login at a terminal, or give the password as the first line of standard input",
            ),
        );
    }
    Ok(Secret::new(text))
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::line;

    #[test]
    fn a_line_ends_where_it_ends_and_ctrl_c_is_no_answer() {
        for (typed, answer) in [
            ("secret\nmore", Ok("secret")),
            ("secret\r\n", Ok("secret")),
            ("\n", Ok("")),
            ("secret", Ok("secret")),
            ("sec\u{3}", Err(ErrorKind::Interrupted)),
            ("", Err(ErrorKind::UnexpectedEof)),
        ] {
            let read = line(&mut typed.as_bytes()).map_err(|error| error.kind());
            assert_eq!(read, answer.map(ToOwned::to_owned));
        }
    }
}
