//! Tables for people: the first column to the left, numbers to the right.

/// Lays out rows under a heading; in Markdown, so that a table can go into a document as it is.
pub(crate) fn table(heading: &[&str], rows: &[Vec<String>]) -> String {
    let heading: Vec<String> = heading.iter().map(|text| (*text).to_owned()).collect();
    let widths: Vec<usize> = (0..heading.len())
        .map(|column| {
            let cells = rows.iter().chain([&heading]).filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        })
        .collect();
    let line = |row: &[String]| {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, width))| {
            if column == 0 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        });
        format!("| {} |\n", cells.collect::<Vec<_>>().join(" | "))
    };
    let rule = widths.iter().enumerate().map(|(column, width)| match column {
        0 => "-".repeat(*width),
        _ => format!("{}:", "-".repeat(width.saturating_sub(1))),
    });
    let rule: Vec<String> = rule.collect();
    line(&heading) + &line(&rule) + &rows.iter().map(|row| line(row)).collect::<String>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_whatever_is_in_them() {
        let rows = [vec!["untraced".to_owned(), "1".to_owned()], vec!["µ".to_owned(), "12–34".to_owned()]];
        let expected = "\
| what     | ns/op |
| -------- | ----: |
| untraced |     1 |
| µ        | 12–34 |
";
        assert_eq!(table(&["what", "ns/op"], &rows), expected);
    }
}
