"""Fonts, colours and CSS of the page. The fonts are system fonts, so that the browser loads none from the web."""

from __future__ import annotations

from typing import Any

FONTS = ["ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "DejaVu Sans", "sans-serif"]
MONO = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "DejaVu Sans Mono", "monospace"]

CSS = """
.gradio-container { max-width: 1240px !important; margin: 0 auto !important; padding: 20px clamp(2px, 2vw, 20px) 8px !important; }
.gradio-container .main.fillable { padding: 16px clamp(8px, 3vw, 32px) !important; }
.gradio-container .html-container { padding: 0 !important; }
.pllava-head { display: flex; align-items: center; gap: 4px 16px; flex-wrap: wrap; }
.pllava-head h1 { font-size: 1.6rem; font-weight: 700; letter-spacing: -0.02em; margin: 0; color: var(--body-text-color); }
.pllava-head p { margin: 0; color: var(--body-text-color-subdued); flex: 1 1 20rem; font-size: .95rem; }
.badge { display: inline-flex; align-items: center; gap: 8px; font-size: .82rem; font-weight: 600; padding: 4px 12px; border-radius: 14px;
  overflow-wrap: anywhere; min-width: 0;
  border: 1px solid var(--border-color-primary); background: var(--block-background-fill); color: var(--body-text-color); }
.badge::before { content: ""; width: 8px; height: 8px; flex: none; border-radius: 50%; background: #16a34a; }
.notice { border: 1px solid var(--border-color-primary); border-left: 4px solid var(--color-accent); border-radius: 8px; padding: 10px 14px;
  background: var(--block-background-fill); color: var(--body-text-color); font-size: .9rem; line-height: 1.5; }
.notice code { font-size: .85em; overflow-wrap: anywhere; }
.strip { display: grid; gap: 6px; grid-template-columns: repeat(8, 1fr); }
.strip figure { margin: 0; min-width: 0; }
.strip button, .captions button { all: unset; cursor: pointer; display: block; }
.strip button:focus-visible, .captions button:focus-visible {
  outline: 2px solid var(--color-accent); outline-offset: 2px; border-radius: 5px; }
.strip img { width: 100%; height: auto; display: block; border-radius: 5px; margin: 0; }
.strip figcaption { text-align: center; font-size: .7rem; color: var(--body-text-color-subdued); font-variant-numeric: tabular-nums; }
.facts { margin: 6px 0 0; font-size: .82rem; color: var(--body-text-color-subdued); }
.facts b { color: var(--body-text-color); }
.empty { color: var(--body-text-color-subdued); font-size: .88rem; margin: 0; }
#restarted:not(:has(.problem)) { display: none; }
#captions:not(:has(p, .problem, [data-testid=status-tracker]:not(.hide))), #downloads:not(:has(button, a)) { display: none; }
.captions { list-style: none; margin: 4px 0 0; padding: 0; max-height: 220px; overflow-y: auto; font-size: .88rem; }
.captions li { padding: 2px 0; color: var(--body-text-color); overflow-wrap: anywhere; }
.captions button { display: inline; color: var(--link-text-color); font-variant-numeric: tabular-nums; margin-right: 6px; }
.duel { display: grid; grid-template-columns: 1fr 1fr; gap: 10px; }
.duel div { border: 1px solid var(--border-color-primary); border-radius: 8px; padding: 8px 12px; background: var(--block-background-fill);
  overflow-wrap: anywhere; min-width: 0; font-size: .9rem; color: var(--body-text-color); }
.duel b { font-size: .75rem; color: var(--body-text-color-subdued); }
.duel p { margin: 4px 0 0; white-space: pre-wrap; }
#chat small { font-size: .75rem; color: var(--body-text-color-subdued); }
#chat button[aria-label=Clear] { display: none; }
.heading { margin: 4px 0 -8px; font-size: .85rem; font-weight: 600; color: var(--body-text-color); }
.heading span { font-weight: 400; color: var(--body-text-color-subdued); }
.problem { border: 1px solid #f59e0b; border-radius: 8px; padding: 10px 14px; font-size: .9rem; color: var(--body-text-color);
  background: color-mix(in srgb, #f59e0b 10%, transparent); overflow-wrap: anywhere; }
.lineage { font-size: .8rem; color: var(--body-text-color-subdued); border-top: 1px solid var(--border-color-primary); padding-top: 10px; }
.lineage summary { cursor: pointer; color: var(--body-text-color); }
.lineage dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 14px; margin: 8px 0 0; }
.lineage dt { color: var(--body-text-color-subdued); }
.lineage dd { margin: 0; font-family: var(--font-mono); font-size: .78rem; overflow-wrap: anywhere; color: var(--body-text-color); }
#samples { border-width: 0 !important; background: none; box-shadow: none; padding: 0; min-height: 0; }
#samples .grid-wrap { min-height: 0 !important; max-height: none !important; height: auto !important; overflow: visible; padding: 0; }
#samples .grid-container { grid-template-columns: repeat(auto-fill, minmax(100px, 1fr)) !important; gap: 8px; padding: 0 !important; }
#samples .thumbnail-item { aspect-ratio: auto; display: flex; flex-direction: column; height: 100%; border-radius: 8px; }
#samples .thumbnail-item img { aspect-ratio: 1; height: auto; }
#samples .caption-label { position: static; max-width: none; width: 100%; padding: 3px 5px; border: none; white-space: normal;
  background: var(--block-background-fill); font-size: .68rem; line-height: 1.25; text-align: center; color: var(--body-text-color); }
#video button[aria-label="Trim video to selection"], #video button[aria-label="Reset video to initial value"] { display: none; }
footer .divider:last-child { display: none; }
@media (max-width: 640px) {
  #samples .grid-container { grid-template-columns: repeat(4, 1fr) !important; }
  #samples .caption-label { font-size: .62rem; padding: 3px 1px; }
  .pllava-head h1 { font-size: 1.3rem; }
  .strip { grid-template-columns: repeat(4, 1fr); }
  .lineage dl { grid-template-columns: 1fr; gap: 0; }
  .lineage dd { margin-bottom: 6px; }
}
"""


def theme() -> Any:
    """The theme of the page (gradio is imported here)."""
    import gradio as gr

    base = gr.themes.Base(primary_hue="indigo", neutral_hue="slate", radius_size="md", font=FONTS, font_mono=MONO)
    return base.set(
        body_background_fill="*neutral_50",
        block_background_fill="white",
        block_label_background_fill="white",
        body_text_color_subdued="*neutral_500",
    )
