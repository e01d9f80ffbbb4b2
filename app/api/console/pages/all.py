"""Every page of the console, in the order of its menu."""

from fastapi import APIRouter

from app.api.console.pages import answers, home, jobs, moves, policies, review, sign_in


def console_routers() -> tuple[APIRouter, ...]:
    """List the routers."""
    return (sign_in.router, home.router, answers.router, review.router, policies.router, moves.router, jobs.router)
