"""Every page of the console, in the order of its menu."""

from fastapi import APIRouter

from app.api.console.pages import answers, data, home, jobs, moves, playground, policies, review, sign_in


def console_routers() -> tuple[APIRouter, ...]:
    """List the routers."""
    return (
        sign_in.router,
        home.router,
        answers.router,
        review.router,
        policies.router,
        moves.router,
        jobs.router,
        playground.router,
        data.router,
    )
