"""mk.py NAME: build notebooks/NAME.ipynb from tools/drafts/NAME.nb; '#%% keep cNNN' copies a cell of the original (git HEAD version tools/drafts/NAME.orig.ipynb)"""
import json,sys,re,pathlib,shutil
name=sys.argv[1]
orig=pathlib.Path(f"tools/drafts/{name}.orig.ipynb")
nbp=pathlib.Path(f"notebooks/{name}.ipynb")
if not orig.exists(): shutil.copy(nbp,orig)
old=json.loads(orig.read_text()); by={c["id"]:c for c in old["cells"]}
src=pathlib.Path(f"tools/drafts/{name}.nb").read_text()
cells=[]
for block in re.split(r"^#%% ",src,flags=re.M)[1:]:
    head,_,body=block.partition("\n")
    body=body.strip("\n")
    if head.startswith("keep"):
        for i in head.split()[1:]:
            c=by[i]; cells.append((c["cell_type"],"".join(c["source"])))
    else:
        cells.append(({"md":"markdown","code":"code","hide":"hide"}[head.strip()],body))
out=[]
for n,(kind,body) in enumerate(cells):
    hidden=kind=="hide"; kind="code" if hidden else kind
    c={"cell_type":kind,"id":f"c{n:03d}","metadata":{}}
    if kind=="code" and body.startswith(("study:","stages:")): c["metadata"]=next(c["metadata"] for c in by.values() if "parameters" in c["metadata"].get("tags",[]))
    if hidden: c["metadata"]={"jupyter":{"source_hidden":True},"tags":["hide-input"]}
    if kind=="code": c|={"execution_count":None,"outputs":[]}
    c["source"]=[l for l in body.splitlines(True)]
    out.append({k:c[k] for k in sorted(c)})
old["cells"]=out
nbp.write_text(json.dumps(old,indent=1,ensure_ascii=False)+"\n")
print(len(out),"cells")
