"""A tenant's hooks: listed, created, changed, deleted."""

from __future__ import annotations

from webhookd.console import forms
from webhookd.console.delivery_pages import PAGE, Deliveries
from webhookd.console.forms import HookForm
from webhookd.console.pages import Page
from webhookd.errors import InvalidInput
from webhookd.model import ON_MISMATCH, VALIDATIONS, Hook

NO_BASE = "nobody can tell what the hook's URL begins with: the operator has to set public_url"
DIGITS = 6
"""How long the number of a page may be."""


class Start(Page):
    """`/console`."""

    OPEN = True

    def get(self) -> None:
        """Lead to the hooks."""
        self.go("/hooks")


class HookList(Deliveries):
    """`/console/hooks`."""

    def get(self) -> None:
        """List the tenant's hooks, newest first, by pages, of those that have `find` in their names."""
        find = self.get_query_argument("find", "").lower()
        number = self.get_query_argument("page", "1")
        page = int(number) if number.isascii() and number.isdigit() and len(number) <= DIGITS else 1
        own = self.console.service.table.of_tenant(self.me.caller.tenant)[::-1]
        hooks = (
            [hook for hook in own if find in f"{hook.datasource} {hook.event} {hook.token}".lower()] if find else own
        )
        shown = hooks[(page - 1) * PAGE : page * PAGE]
        self.render(
            "hooks.html",
            hooks=[(hook, self.spark(hook), next(iter(self.last(hook, 1)), None)) for hook in shown],
            source=self.console.service.datasources.get,
            find=find,
            page=page,
            total=len(own),
            more=len(hooks) > page * PAGE,
        )


class HookFormPage(Page):
    """What creating and changing have in common: a form that comes back with its faults."""

    def show(self, form: HookForm, hook: Hook | None) -> None:
        """Show the form."""
        known = self.console.service.datasources.known
        if form.faults or form.general:
            self.set_status(InvalidInput.status)
        self.render(
            "hook_form.html",
            form=form,
            hook=hook,
            known=known,
            likely=forms.likely(form.value("datasource"), known),
            source=self.console.service.datasources.get(hook.datasource if hook else ""),
            described=[self.console.service.datasources.describe(name) for name in known],
            validations=VALIDATIONS,
            on_mismatch=ON_MISMATCH,
        )


class NewHook(HookFormPage):
    """`/console/hooks/new`."""

    def get(self) -> None:
        """Show the empty form."""
        self.show(forms.blank(), None)

    async def post(self) -> None:
        """Create the hook, or say what is wrong."""
        self.need_store()
        service, caller = self.console.service, self.me.caller
        form = forms.typed(self.get_body_argument)
        base = self.console.hook_base(caller.tenant, self.request.host)
        if base is None:
            self.show(form.against((), NO_BASE), None)
            return
        try:
            wish = forms.wish(form, service, new=True)
        except InvalidInput as error:
            self.show(form.against(error.errors), None)
            return
        existing = service.table.by_key(caller.tenant, wish.datasource, wish.event)
        if existing is not None:
            fault = {"field": "event", "message": "you have a hook for this datasource and event already: change that"}
            self.show(form.against([fault]), None)
            return
        hook = await service.put(caller, wish, None, base)
        self.go(f"/hooks/{hook.token}", "created-signed" if wish.secret else "created")


class EditHook(HookFormPage):
    """`/console/hooks/<token>/edit`."""

    def get(self, token: str) -> None:
        """Show the form, filled in."""
        hook = self.own_hook(token)
        self.show(forms.of_hook(hook), hook)

    async def post(self, token: str) -> None:
        """Change the hook, or say what is wrong."""
        hook = self.own_hook(token)
        self.need_store()
        form = forms.typed(self.get_body_argument, hook)
        try:
            wish = forms.wish(form, self.console.service, new=False)
        except InvalidInput as error:
            self.show(form.against(error.errors), hook)
            return
        await self.console.service.put(self.me.caller, wish, None, hook.base_url)
        self.go(f"/hooks/{hook.token}", "changed")


class RotateHook(Page):
    """`/console/hooks/<token>/rotate`."""

    def get(self, token: str) -> None:
        """Ask whether the old URL is to work on for a time."""
        self.render("rotate.html", hook=self.own_hook(token), grace=self.console.service.secret_grace)

    async def post(self, token: str) -> None:
        """Give the hook another URL."""
        hook = self.own_hook(token)
        self.need_store()
        now = self.get_body_argument("when", "later") == "now"
        hook = await self.console.service.rotate(hook, token, immediately=now)
        self.go(f"/hooks/{hook.token}", "rotated")


class DeleteHook(Page):
    """`/console/hooks/<token>/delete`."""

    def get(self, token: str) -> None:
        """Ask whether that is meant."""
        self.render("delete.html", hook=self.own_hook(token))

    async def post(self, token: str) -> None:
        """Delete the hook."""
        hook = self.own_hook(token)
        self.need_store()
        await self.console.service.delete(hook)
        self.go("/hooks", "deleted")
