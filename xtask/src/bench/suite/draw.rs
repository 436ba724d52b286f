//! Draws charts as SVG, on white, so that they can be read in light and in dark pages.

use plotters::{
    coord::{Shift, types::RangedCoordf64},
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

use super::{
    chart::{Bars, Chart, Curve, Hue, Limit, Panel},
    page::figure,
};

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Axes<'a> = ChartContext<'a, SVGBackend<'a>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;
type Drawn<T = ()> =
    Result<T, DrawingAreaErrorKind<<SVGBackend<'static> as DrawingBackend>::ErrorType>>;

const WIDTH: u32 = 900;
const FONT: &str = "sans-serif";
const INK: RGBColor = RGBColor(31, 35, 40);
const GRID: RGBColor = RGBColor(225, 228, 232);
const OURS: RGBColor = RGBColor(31, 111, 235);
const OTHER: RGBColor = RGBColor(154, 164, 178);
const PROMISE: RGBColor = RGBColor(207, 34, 46);

/// Pixels for a title, above each panel.
const TITLE: u32 = 44;
/// Pixels below a panel's data: figures and what they are, and space below that.
const FOOT: u32 = 42;
const SPACE: u32 = 14;
/// Pixels for one bar.
const BAR: u32 = 28;
/// Pixels for the data of a curve.
const CURVE: u32 = 220;
/// Pixels to the right of the data: the bars' figures.
const RIGHT: u32 = 110;
/// Pixels that a letter of a label takes, on average.
const LETTER: u32 = 8;
/// Pixels between the names of two points, at least.
const APART: i32 = 60;

/// The SVG text of a chart.
pub(super) fn svg(chart: &Chart) -> anyhow::Result<String> {
    let heights: Vec<u32> = chart.panels.iter().map(height).collect();
    let size = (WIDTH, heights.iter().sum());
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, size).into_drawing_area();
        root.fill(&WHITE)?;
        let mut rest = root.clone();
        for (panel, height) in chart.panels.iter().zip(heights) {
            let (area, below) = rest.split_vertically(height);
            match panel {
                Panel::Bars(bars) => draw_bars(&area, bars)?,
                Panel::Curve(curve) => draw_curve(&area, curve)?,
            }
            rest = below;
        }
        root.present()?;
    }
    Ok(text + "\n")
}

fn height(panel: &Panel) -> u32 {
    let data = match panel {
        Panel::Bars(bars) => BAR * bars.rows.len() as u32,
        Panel::Curve(_) => CURVE,
    };
    TITLE + data + FOOT + SPACE
}

fn font(size: u32, color: RGBColor, horizontal: HPos) -> TextStyle<'static> {
    (FONT, size)
        .into_font()
        .color(&color)
        .pos(Pos::new(horizontal, VPos::Center))
}

fn draw_bars(area: &Area<'_>, bars: &Bars) -> Drawn {
    let longest = bars.rows.iter().map(|bar| bar.label.chars().count()).max();
    let left = (longest.unwrap_or(0) as u32 * LETTER + 16).clamp(80, WIDTH / 2);
    let count = bars.rows.len();
    let most = bars
        .rows
        .iter()
        .flat_map(|bar| [Some(bar.value), bar.limit, bar.range.map(|(_, high)| high)])
        .flatten();
    let most = longest_axis(most);
    title(area, &bars.title)?;
    let mut chart = ChartBuilder::on(area)
        .margin_top(TITLE)
        .margin_right(RIGHT)
        .margin_bottom(SPACE)
        .x_label_area_size(FOOT)
        .y_label_area_size(left)
        .build_cartesian_2d(0.0..most * 1.04, 0.0..count as f64)?;
    let digits = digits(most);
    chart
        .configure_mesh()
        .disable_y_mesh()
        .disable_y_axis()
        .y_labels(0)
        .x_labels(8)
        .x_label_formatter(&|x| figure(*x, digits, ""))
        .x_desc(bars.axis.as_str())
        .axis_style(INK)
        .bold_line_style(GRID)
        .light_line_style(WHITE)
        .label_style((FONT, 13).into_font().color(&INK))
        .axis_desc_style((FONT, 14).into_font().color(&INK))
        .draw()?;
    for (index, bar) in bars.rows.iter().enumerate() {
        let bottom = (count - 1 - index) as f64;
        let color = match bar.hue {
            Hue::Ours => OURS,
            Hue::Other => OTHER,
        };
        let corners = [(0.0, bottom + 0.18), (bar.value, bottom + 0.82)];
        chart.draw_series([Rectangle::new(corners, color.filled())])?;
        whisker(&mut chart, bar.range, bottom)?;
        if let Some(limit) = bar.limit {
            let line = vec![(limit, bottom), (limit, bottom + 1.0)];
            chart.draw_series([PathElement::new(line, PROMISE.stroke_width(2))])?;
        }
        let (zero, middle) = chart.backend_coord(&(0.0, bottom + 0.5));
        let (end, _) = chart.backend_coord(&(most * 1.04, 0.0));
        let words = [
            (bar.label.clone(), zero - 8, HPos::Right),
            (figure(bar.value, bars.digits, ""), end + 8, HPos::Left),
        ];
        for (text, x, side) in words {
            write_at(area, text, (x, middle), &font(14, INK, side))?;
        }
    }
    if bars.rows.iter().any(|bar| bar.limit.is_some()) {
        legend(
            area,
            match bars.limit {
                Limit::AtMost => "promised: at most",
                Limit::AtLeast => "promised: at least",
            },
        )?;
    }
    Ok(())
}

/// The largest of all values; an axis needs some length even if there is nothing on it.
fn longest_axis(values: impl Iterator<Item = f64>) -> f64 {
    values
        .filter(|value| *value > 0.0)
        .reduce(f64::max)
        .unwrap_or(1.0)
}

/// Digits behind the point that tell an axis' figures apart.
fn digits(most: f64) -> usize {
    match most {
        ..1.0 => 2,
        ..10.0 => 1,
        _ => 0,
    }
}

fn whisker(chart: &mut Axes<'_>, range: Option<(f64, f64)>, bottom: f64) -> Drawn {
    let Some((low, high)) = range else {
        return Ok(());
    };
    let strokes = [
        vec![(low, bottom + 0.5), (high, bottom + 0.5)],
        vec![(low, bottom + 0.36), (low, bottom + 0.64)],
        vec![(high, bottom + 0.36), (high, bottom + 0.64)],
    ];
    chart.draw_series(strokes.map(|line| PathElement::new(line, INK)))?;
    Ok(())
}

/// Along a logarithm where the points lie far apart.
fn draw_curve(area: &Area<'_>, curve: &Curve) -> Drawn {
    let place = scale(&curve.points);
    let points: Vec<(f64, f64)> = curve.points.iter().map(|(x, y)| (place(*x), *y)).collect();
    let (Some(first), Some(last)) = (points.first(), points.last()) else {
        return Ok(());
    };
    let most = curve
        .points
        .iter()
        .map(|(_, y)| *y)
        .chain(curve.limit.into_iter().flat_map(|(from, to)| [from, to]));
    let most = longest_axis(most);
    let room = (last.0 - first.0).max(f64::MIN_POSITIVE) * 0.02;
    title(area, &curve.title)?;
    let mut chart = ChartBuilder::on(area)
        .margin_top(TITLE)
        .margin_right(3 * SPACE)
        .margin_bottom(SPACE)
        .margin_left(SPACE)
        .x_label_area_size(FOOT)
        .y_label_area_size(72)
        .build_cartesian_2d(first.0 - room..last.0 + room, 0.0..most * 1.1)?;
    let digits = digits(most);
    chart
        .configure_mesh()
        .disable_x_mesh()
        .x_labels(0)
        .y_labels(6)
        .y_label_formatter(&|y| figure(*y, digits, ""))
        .x_desc(curve.x.as_str())
        .y_desc(curve.y.as_str())
        .axis_style(INK)
        .bold_line_style(GRID)
        .light_line_style(WHITE)
        .label_style((FONT, 13).into_font().color(&INK))
        .axis_desc_style((FONT, 14).into_font().color(&INK))
        .draw()?;
    if let Some((from, to)) = curve.limit {
        let line = vec![(first.0, from), (last.0, to)];
        chart.draw_series([PathElement::new(line, PROMISE.stroke_width(2))])?;
        legend(area, "promised: at most")?;
    }
    chart.draw_series([PathElement::new(points.clone(), OURS.stroke_width(2))])?;
    chart.draw_series(
        points
            .iter()
            .map(|point| Circle::new(*point, 4, OURS.filled())),
    )?;
    name_points(area, &chart, &curve.points, &points)
}

/// Where along the axis a value lies.
fn scale(points: &[(f64, f64)]) -> fn(f64) -> f64 {
    let last = points.last().map_or(1.0, |(x, _)| *x);
    let smallest = points.iter().map(|(x, _)| *x).find(|x| *x > 0.0);
    if last > 50.0 * smallest.unwrap_or(last) {
        |x| (x + 1.0).log10()
    } else {
        |x| x
    }
}

/// Below the axis, as far as there is room.
fn name_points(
    area: &Area<'_>,
    chart: &Axes<'_>,
    values: &[(f64, f64)],
    points: &[(f64, f64)],
) -> Drawn {
    let mut taken = i32::MIN;
    for ((value, _), (x, _)) in values.iter().zip(points) {
        let (x, bottom) = chart.backend_coord(&(*x, 0.0));
        if x < taken {
            continue;
        }
        taken = x + APART;
        let style = font(13, INK, HPos::Center);
        write_at(area, figure(*value, 0, ""), (x, bottom + 14), &style)?;
    }
    Ok(())
}

fn title(area: &Area<'_>, text: &str) -> Drawn {
    let style = (FONT, 18)
        .into_font()
        .style(FontStyle::Bold)
        .color(&INK)
        .pos(Pos::new(HPos::Left, VPos::Center));
    area.draw(&Text::new(text.to_owned(), (16, TITLE as i32 / 2), style))
}

/// What the red line is, at the upper right.
fn legend(area: &Area<'_>, text: &str) -> Drawn {
    let (right, middle) = (WIDTH as i32 - 16, TITLE as i32 / 2);
    let line = vec![(right - 18, middle), (right, middle)];
    area.draw(&PathElement::new(line, PROMISE.stroke_width(2)))?;
    let style = font(14, PROMISE, HPos::Right);
    area.draw(&Text::new(text.to_owned(), (right - 24, middle), style))
}

/// Writes at a place of the whole picture, as charts tell it.
fn write_at(area: &Area<'_>, text: String, at: (i32, i32), style: &TextStyle<'_>) -> Drawn {
    let (left, top) = area.get_base_pixel();
    area.draw(&Text::new(text, (at.0 - left, at.1 - top), style.clone()))
}

#[cfg(test)]
mod tests {
    use super::super::chart::Bar;
    use super::*;

    #[test]
    fn bars_have_names_figures_and_a_promise_on_white() {
        let bars = vec![
            Bar::new("ours", 34.0, Hue::Ours).limit(Some(40.0)),
            Bar::new("kamailio", 1_204.0, Hue::Other).spread(Some(300.0)),
        ];
        let bars = Bars::new("CPU of a call", "µs per call", 0, bars);
        let chart = Chart::of_bars([bars]).unwrap();
        let text = svg(&chart).unwrap();
        for word in [
            "<svg",
            "CPU of a call",
            "µs per call",
            "kamailio",
            "1,204",
            "promised: at most",
        ] {
            assert!(text.contains(word), "{word}: {text}");
        }
        assert!(text.contains("fill=\"#FFFFFF\""), "{text}");
    }

    #[test]
    fn a_curve_names_its_points() {
        let curve = Curve {
            title: "backends".to_owned(),
            x: "backends".to_owned(),
            y: "ns per packet".to_owned(),
            points: vec![(2.0, 110.0), (64.0, 112.0), (1_024.0, 111.0)],
            limit: Some((121.0, 121.0)),
        };
        let chart = Chart {
            panels: vec![Panel::Curve(curve)],
        };
        let text = svg(&chart).unwrap();
        for word in ["1,024", "ns per packet", "promised: at most", "<circle"] {
            assert!(text.contains(word), "{word}: {text}");
        }
    }

    #[test]
    fn nothing_to_draw_is_no_chart() {
        assert_eq!(Chart::of_bars([Bars::new("", "", 0, Vec::new())]), None);
    }
}
