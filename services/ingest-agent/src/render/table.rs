//! Changes for people: grouped by transaction, columns aligned, differences column by column.
//!
//! ```text
//! 2026-11-21T10:00:00.123456Z  0-1-23  binlog.000003:4711  thread 8
//!   statement: UPDATE orders SET status = 'paid' WHERE id = 42
//!   update  shop.orders  id=42  status: 'new' → 'paid'
//! ```

use std::io::{self, Write};

use super::{
    ChangeError, Render, Shown, ShownStatement,
    line::{Line, wrap},
    row::Row,
    screen::{Screen, Style},
    shown::Head,
    text::{one_line, visible, width},
};

/// Rows of one transaction that are held back to align them with each other.
const ALIGNED_ROWS: usize = 64;

/// Writes changes as a table.
pub(crate) struct Table<W> {
    out: W,
    screen: Screen,
    group: Option<Group>,
}

/// The transaction being written.
struct Group {
    epoch: u32,
    file: String,
    offset: u64,
    query: Option<String>,
    rows: Vec<Row>,
}

impl<W: Write> Table<W> {
    /// Writes to `out` for `screen`.
    pub(crate) fn new(out: W, screen: Screen) -> Self {
        Self {
            out,
            screen,
            group: None,
        }
    }

    fn line(&mut self, line: &Line) -> io::Result<()> {
        writeln!(self.out, "{}", line.paint(self.screen.colour))
    }

    /// Begins a transaction, unless it is the one being written.
    fn group(&mut self, head: &Head<'_>) -> io::Result<()> {
        if self.group.as_ref().is_some_and(|group| {
            group.epoch == head.epoch && group.offset == head.offset && group.file == head.file
        }) {
            return Ok(());
        }
        self.rows()?;
        self.group = Some(Group {
            epoch: head.epoch,
            file: head.file.to_owned(),
            offset: head.offset,
            query: None,
            rows: Vec::new(),
        });
        let mut place = format!("{}:{}", head.file, head.offset);
        if head.epoch > 0 {
            place = format!("{place} (epoch {})", head.epoch);
        }
        let thread = head.thread_id.map(|id| format!("thread {id}"));
        let mut pieces = vec![Line::of(Style::Bold, head.commit_time.to_string())];
        let gtid = head.gtid.map(|gtid| visible(&gtid.to_string()).into_owned());
        let columns = |text: &Option<String>| text.as_deref().map_or(0, |text| width(text) + 2);
        let all = pieces[0].columns() + columns(&gtid) + columns(&thread) + width(&place) + 2;
        let roomy = self.screen.width.is_none_or(|limit| all <= limit);
        let place = (roomy || gtid.is_none()).then_some(place);
        pieces.extend(gtid.map(|gtid| Line::of(Style::Plain, gtid)));
        pieces.extend(place.map(|place| Line::of(Style::Dim, visible(&place))));
        pieces.extend(thread.map(|thread| Line::of(Style::Dim, thread)));
        for line in wrap(Line::default(), pieces, "  ", 2, self.screen.width) {
            self.line(&line)?;
        }
        Ok(())
    }

    fn statement(&mut self, query: &str) -> io::Result<()> {
        let line = Line::of(Style::Dim, format!("  statement: {}", visible(&one_line(query))))
            .cut(self.screen.width);
        self.line(&line)
    }

    /// Writes the rows held back.
    fn rows(&mut self) -> io::Result<()> {
        let Some(group) = &mut self.group else {
            return Ok(());
        };
        let rows = std::mem::take(&mut group.rows);
        let limit = self.screen.width;
        let widest = |text: fn(&Row) -> &str| rows.iter().map(|row| width(text(row))).max().unwrap_or(0);
        let cap = limit.map_or(usize::MAX, |limit| limit / 3);
        let (table, key) = (widest(|row| &row.table).min(cap), widest(|row| &row.key).min(cap));
        for row in rows {
            for line in row.lines(table, key, limit) {
                self.line(&line)?;
            }
        }
        Ok(())
    }
}

impl<W: Write> Render for Table<W> {
    fn change(&mut self, change: Shown<'_>) -> Result<(), ChangeError> {
        let row = Row::of(change)?;
        self.group(&change.head())?;
        let query = change.query();
        let is_new = self
            .group
            .as_ref()
            .is_some_and(|group| group.query.as_deref() != query);
        if is_new && let Some(query) = query {
            self.rows()?;
            self.statement(query)?;
        }
        if let Some(group) = &mut self.group {
            if is_new {
                group.query = query.map(ToOwned::to_owned);
            }
            group.rows.push(row);
            if group.rows.len() == ALIGNED_ROWS {
                self.rows()?;
            }
        }
        Ok(())
    }

    fn schema_change(&mut self, change: ShownStatement<'_>) -> io::Result<()> {
        self.group(&change.head)?;
        self.rows()?;
        let mut line = Line::of(Style::Plain, "  ");
        line.cell(Style::Yellow, "schema", 6);
        line.push(Style::Plain, &*visible(&one_line(change.text)));
        self.line(&line.cut(self.screen.width))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.rows()?;
        self.out.flush()
    }

    fn finish(&mut self) -> io::Result<()> {
        self.flush()
    }
}

#[cfg(test)]
mod tests {
    use binlog::Change;

    use super::{Screen, Table};
    use crate::render::{
        Render,
        fixture::{change, row},
        text::width,
    };

    fn table(changes: &[Change], columns: Option<usize>) -> String {
        let mut out = Vec::new();
        let mut table = Table::new(
            &mut out,
            Screen {
                width: columns,
                colour: false,
            },
        );
        for change in changes {
            table.change(change.into()).expect("a change");
        }
        table.finish().expect("written");
        drop(table);
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn a_transaction_is_one_group_with_aligned_rows() {
        let mut changes = [
            change(4_711, 0, Some(row(7, "new", None)), Some(row(7, "paid", None))),
            change(4_711, 1, Some(row(1_042, "new", None)), None),
            change(4_711, 2, None, Some(row(9, "new", Some("gift")))),
        ];
        changes[0].query = Some("UPDATE orders\n   SET status = 'paid'".into());
        changes[1].query = changes[0].query.clone();
        let expected = "\
2026-11-21T10:00:00.004711Z  binlog.000003:4711  thread 8
  statement: UPDATE orders SET status = 'paid'
  update  shop.orders  id=7     status: 'new' → 'paid'
  delete  shop.orders  id=1042  status: 'new', note: NULL
  insert  shop.orders  id=9     status: 'new', note: 'gift'
";
        assert_eq!(table(&changes, Some(80)), expected);
        assert_eq!(table(&changes, None), expected);
    }

    #[test]
    fn what_does_not_fit_goes_one_column_per_line_and_is_cut() {
        let (long, other) = ("x".repeat(70), "y".repeat(70));
        let changes = [
            change(
                4,
                0,
                Some(row(7, "new", Some(&long))),
                Some(row(7, "paid", Some(&other))),
            ),
            change(4, 1, None, Some(row(8, "new", Some(&long)))),
        ];
        let text = table(&changes, Some(60));
        assert!(text.lines().all(|line| width(line) <= 60), "{text}");
        let expected = "\
2026-11-21T10:00:00.000004Z  binlog.000003:4  thread 8
  update  shop.orders  id=7
      status: 'new' → 'paid'
      note: 'xxxxxxxxxxxxxxxxxxxx… → 'yyyyyyyyyyyyyyyyyyyy…
  insert  shop.orders  id=8
      status: 'new',
      note: 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx…
";
        assert_eq!(text, expected);
        assert!(
            table(&changes, None).contains(&long),
            "nothing is cut where nothing limits a line"
        );
    }

    #[test]
    fn a_narrow_terminal_shows_the_gtid_whole() {
        let mut change = change(4, 0, None, Some(row(7, "new", None)));
        change.gtid = "3e11fa47-71ca-11e1-9e33-c80aa9429562:23".parse().ok();
        let text = table(&[change], Some(80));
        assert!(
            text.starts_with(
                "2026-11-21T10:00:00.000004Z  3e11fa47-71ca-11e1-9e33-c80aa9429562:23  thread 8\n"
            ),
            "{text}"
        );
    }

    #[test]
    fn hostile_data_stays_data() {
        let hostile = "\u{1b}[31m\n2026-11-21T10:00:00Z  forged";
        let mut change = change(4, 0, Some(row(7, "new", None)), Some(row(7, hostile, None)));
        change.query = Some("UPDATE /* \u{1b}]0;x\u{7} */ t".into());
        let text = table(&[change], Some(200));
        assert_eq!(text.lines().count(), 3, "{text}");
        assert!(!text.contains(['\u{1b}', '\u{7}']), "{text}");
    }
}
